"""The HTTP api.  It needs no torch and starts without a worker."""

from service.api.app import create_app

__all__ = ["create_app"]
