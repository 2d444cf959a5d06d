"""The world outside: S3, MLflow and the embedded stack. Only phases and the command line come here."""
