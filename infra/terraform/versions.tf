terraform {
  required_version = ">= 1.7"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100, < 7"
    }
  }
  # State names every resource: keep it where only administrators read it.
  # backend "s3" {
  #   bucket       = "your-terraform-state"
  #   key          = "fcn-lab.tfstate"
  #   region       = "eu-central-1"
  #   use_lockfile = true
  # }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { project = var.name }
  }
}
