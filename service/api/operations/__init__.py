"""Routes for those who run the service: health, metrics, the audit log, the API's description."""
