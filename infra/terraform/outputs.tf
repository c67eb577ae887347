output "storage" {
  description = "For --storage and FCN_STORAGE."
  value       = "s3://${aws_s3_bucket.lab.id}/${var.root}"
}

output "image" {
  description = "For docker.image in cluster.yaml and images in infra/kuberay/image/kustomization.yaml, with a tag."
  value       = aws_ecr_repository.image.repository_url
}

output "security_group" {
  description = "For SecurityGroupIds in cluster.yaml."
  value       = aws_security_group.nodes.id
}

output "roles" {
  description = "For the annotations of service accounts in infra/kuberay/base/accounts.yaml, and for promoters to assume."
  value       = { for name, role in aws_iam_role.role : name => role.arn }
}
