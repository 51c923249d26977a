"""The site of the documentation: pages as they lie in the repository, and generated references."""
