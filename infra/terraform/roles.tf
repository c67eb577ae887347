# Who may do what with the bucket. A pickle in a run's folder is code of whoever may write there, so that who serves
# reads models/ only (weights as safetensors, sealed by SHA-256), and who trains never writes there.

locals {
  # Folders below the root, by what a role may do with them.
  grants = {
    # Workers train, evaluate and look inside. Evaluations of a version lie beside it: who promotes makes them.
    train = {
      read  = ["data", "models"]
      write = ["runs", "sweeps", "receptive_fields", "ray"]
    }
    serve = {
      read  = ["models", "receptive_fields", "serving"]
      write = []
    }
    # Packs a run and asks the gate. What is deleted by mistake can be had back for a year.
    promote = {
      read  = ["data", "runs"]
      write = ["models"]
    }
    # The head of a cluster whose experiment service may promote: it drives jobs of all kinds, so that whoever may submit
    # there may write models/.
    experiments = {
      read  = ["data", "serving"]
      write = ["runs", "sweeps", "receptive_fields", "ray", "models"]
    }
  }
  # Everything of a folder, and the folder's own name: whether it exists is asked there first.
  below = { for folder in ["data", "models", "runs", "sweeps", "receptive_fields", "ray", "serving"] : folder => [
    "${aws_s3_bucket.lab.arn}/${var.root}/${folder}",
    "${aws_s3_bucket.lab.arn}/${var.root}/${folder}/*",
  ] }
  # Service accounts that get a role, and machines that do.
  accounts = { train = "fcn-train", serve = "fcn-serve", experiments = "fcn-experiments" }
  roles    = toset(concat(["train", "serve", "experiments"], length(var.promoters) > 0 ? ["promote"] : []))
  issuer   = var.oidc_provider_arn == null ? null : split("oidc-provider/", var.oidc_provider_arn)[1]
}

data "aws_iam_policy_document" "storage" {
  for_each = local.grants

  # Names of objects are no secret between these roles; what is in them is.
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [aws_s3_bucket.lab.arn]
  }
  # Who uploads finds what was cut off: jobs/storage.py.
  dynamic "statement" {
    for_each = length(each.value.write) > 0 ? [1] : []
    content {
      sid       = "ListUploads"
      actions   = ["s3:ListBucketMultipartUploads"]
      resources = [aws_s3_bucket.lab.arn]
    }
  }
  statement {
    sid     = "Read"
    actions = ["s3:GetObject"]
    resources = concat(
      ["${aws_s3_bucket.lab.arn}/${var.root}"],
      flatten([for folder in concat(each.value.read, each.value.write) : local.below[folder]]),
    )
  }
  dynamic "statement" {
    for_each = length(each.value.write) > 0 ? [1] : []
    content {
      sid       = "Write"
      actions   = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
      resources = flatten([for folder in each.value.write : local.below[folder]])
    }
  }
}

data "aws_iam_policy_document" "trust" {
  for_each = local.grants

  dynamic "statement" {
    for_each = contains(["train", "serve"], each.key) ? [1] : []
    content {
      sid     = "Machines"
      actions = ["sts:AssumeRole"]
      principals {
        type        = "Service"
        identifiers = ["ec2.amazonaws.com"]
      }
    }
  }
  dynamic "statement" {
    for_each = each.key == "promote" && length(var.promoters) > 0 ? [1] : []
    content {
      sid     = "Promoters"
      actions = ["sts:AssumeRole"]
      principals {
        type        = "AWS"
        identifiers = var.promoters
      }
    }
  }
  dynamic "statement" {
    for_each = var.oidc_provider_arn != null && contains(keys(local.accounts), each.key) ? [1] : []
    content {
      sid     = "ServiceAccount"
      actions = ["sts:AssumeRoleWithWebIdentity"]
      principals {
        type        = "Federated"
        identifiers = [var.oidc_provider_arn]
      }
      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:sub"
        values   = ["system:serviceaccount:${var.namespace}:${local.accounts[each.key]}"]
      }
      condition {
        test     = "StringEquals"
        variable = "${local.issuer}:aud"
        values   = ["sts.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role" "role" {
  for_each           = local.roles
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust[each.key].json
}

resource "aws_iam_role_policy" "storage" {
  for_each = local.roles
  name     = "storage"
  role     = aws_iam_role.role[each.key].id
  policy   = data.aws_iam_policy_document.storage[each.key].json
}
