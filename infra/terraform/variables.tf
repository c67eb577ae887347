variable "name" {
  type        = string
  default     = "fcn-lab"
  description = "Begins the names of all that is made here. cluster.yaml has it as cluster_name and in its instance profiles."
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}$", var.name))
    error_message = "name has lower-case letters, digits and '-', and at most 31 characters."
  }
}

variable "region" {
  type        = string
  description = "Where everything lies: bucket, image and nodes."
}

variable "bucket" {
  type        = string
  description = "Name of the bucket, which no other bucket in the world has."
}

variable "root" {
  type        = string
  default     = "lab"
  description = "Folder in the bucket: runs use --storage s3://BUCKET/ROOT."
  validation {
    condition     = can(regex("^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", var.root))
    error_message = "root is a folder such as lab or teams/vision, without a slash at either end."
  }
}

variable "vpc_id" {
  type        = string
  description = "Network of the nodes of cluster.yaml."
}

variable "ssh_cidrs" {
  type        = list(string)
  default     = []
  description = "From where `ray up` and `ray dashboard` reach the head by SSH, such as [\"203.0.113.7/32\"]."
  validation {
    condition     = alltrue([for cidr in var.ssh_cidrs : can(cidrhost(cidr, 0)) && tonumber(split("/", cidr)[1]) >= 8])
    error_message = "ssh_cidrs are networks in CIDR notation, and never the whole internet."
  }
}

variable "promoters" {
  type        = list(string)
  default     = []
  description = "ARNs of the people or pipelines that may make a run the champion of a model. Nobody else may write models/, but for a head with the role experiments."
}

variable "oidc_provider_arn" {
  type        = string
  default     = null
  description = "IAM OIDC provider of a Kubernetes cluster whose service accounts get the roles (IRSA)."
}

variable "namespace" {
  type        = string
  default     = "fcn-lab"
  description = "Kubernetes namespace of these service accounts, fcn-train, fcn-serve and fcn-experiments."
}
