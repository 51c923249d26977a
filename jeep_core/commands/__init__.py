"""The commands of ``jeep`` that need the library and no running service."""

MODEL_HELP = "bundled name, local folder, GGUF file, hub id, or a name of jeep models"
MODELS_DIR_HELP = "directory of the models that have names, and of converted GGUF files"
