"""What OpenAI publishes of its objects, copied from OpenAPI 2.3.0."""

JOB_KEYS = {
    "id", "object", "created_at", "finished_at", "model", "fine_tuned_model", "organization_id", "status",
    "hyperparameters", "training_file", "validation_file", "result_files", "trained_tokens", "error", "seed",
}  # fmt: skip
