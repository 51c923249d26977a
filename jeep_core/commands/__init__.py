"""The commands of ``jeep`` that need the library and no running service."""
