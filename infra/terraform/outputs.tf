output "stack_id" {
  description = "ID of the CloudFormation stack"
  value       = aws_cloudformation_stack.quiesce.id
}

output "outputs" {
  description = "Outputs of the stack, such as Function, Role, Alarms, Stop, Resume and Rollback"
  value       = aws_cloudformation_stack.quiesce.outputs
}
