# What cluster.yaml needs: the image's repository, instance profiles of head and workers, and the network between them.

resource "aws_ecr_repository" "image" {
  name                 = var.name
  image_tag_mutability = "IMMUTABLE"
  image_scanning_configuration {
    scan_on_push = true
  }
}

data "aws_iam_policy_document" "pull" {
  statement {
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }
  statement {
    actions   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = [aws_ecr_repository.image.arn]
  }
}

resource "aws_iam_role_policy" "pull" {
  for_each = merge(
    { for name in ["train", "serve"] : name => aws_iam_role.role[name].id },
    { for name, role in aws_iam_role.head : name => role.id },
  )
  name   = "pull"
  role   = each.value
  policy = data.aws_iam_policy_document.pull.json
}

# The head drives jobs, so that it needs what workers may do with the bucket, and starts and ends workers.
data "aws_iam_policy_document" "machines" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# Two heads, by what they may do with the bucket: the second is for a cluster where the experiment service runs.
locals {
  heads = { head = "train", experiments-head = "experiments" }
}

resource "aws_iam_role" "head" {
  for_each           = local.heads
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.machines.json
}

resource "aws_iam_role_policy" "head_storage" {
  for_each = local.heads
  name     = "storage"
  role     = aws_iam_role.head[each.key].id
  policy   = data.aws_iam_policy_document.storage[each.value].json
}

data "aws_caller_identity" "here" {}

locals {
  ec2 = "arn:aws:ec2:${var.region}:${data.aws_caller_identity.here.account_id}"
}

data "aws_iam_policy_document" "autoscaler" {
  statement {
    sid       = "Look"
    actions   = ["ec2:DescribeInstances", "ec2:DescribeInstanceTypes", "ec2:DescribeSubnets", "ec2:DescribeSecurityGroups"]
    resources = ["*"]
  }
  statement {
    sid       = "FindImage"
    actions   = ["ssm:GetParameters"]
    resources = ["arn:aws:ssm:${var.region}::parameter/aws/service/deeplearning/*"]
  }
  # Only machines of this cluster, and only such as hand out credentials by IMDSv2.
  statement {
    sid       = "Start"
    actions   = ["ec2:RunInstances"]
    resources = ["${local.ec2}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/ray-cluster-name"
      values   = [var.name]
    }
    condition {
      test     = "StringEquals"
      variable = "ec2:MetadataHttpTokens"
      values   = ["required"]
    }
  }
  statement {
    sid     = "StartWith"
    actions = ["ec2:RunInstances"]
    resources = [
      "arn:aws:ec2:${var.region}::image/*",
      "${local.ec2}:key-pair/*",
      "${local.ec2}:network-interface/*",
      "${local.ec2}:subnet/*",
      "${local.ec2}:volume/*",
      aws_security_group.nodes.arn,
    ]
  }
  statement {
    sid       = "TagAtStart"
    actions   = ["ec2:CreateTags"]
    resources = ["${local.ec2}:instance/*", "${local.ec2}:volume/*", "${local.ec2}:network-interface/*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }
  statement {
    sid       = "TagAndEnd"
    actions   = ["ec2:CreateTags", "ec2:TerminateInstances"]
    resources = ["${local.ec2}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:ResourceTag/ray-cluster-name"
      values   = [var.name]
    }
  }
  statement {
    sid       = "HandOnRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.role["train"].arn]
    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "autoscaler" {
  for_each = local.heads
  name     = "autoscaler"
  role     = aws_iam_role.head[each.key].id
  policy   = data.aws_iam_policy_document.autoscaler.json
}

resource "aws_iam_instance_profile" "head" {
  for_each = local.heads
  name     = "${var.name}-${each.key}"
  role     = aws_iam_role.head[each.key].name
}

resource "aws_iam_instance_profile" "train" {
  name = "${var.name}-train"
  role = aws_iam_role.role["train"].name
}

# For machines that serve and do nothing else.
resource "aws_iam_instance_profile" "serve" {
  name = "${var.name}-serve"
  role = aws_iam_role.role["serve"].name
}

# Ray would make a group of its own that lets the whole internet try SSH.
resource "aws_security_group" "nodes" {
  name        = "${var.name}-nodes"
  description = "Nodes of the Ray cluster: everything among themselves, SSH from where it is wanted"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "among_nodes" {
  security_group_id            = aws_security_group.nodes.id
  referenced_security_group_id = aws_security_group.nodes.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_ingress_rule" "ssh" {
  for_each          = toset(var.ssh_cidrs)
  security_group_id = aws_security_group.nodes.id
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 22
  to_port           = 22
}

resource "aws_vpc_security_group_egress_rule" "all" {
  security_group_id = aws_security_group.nodes.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}
