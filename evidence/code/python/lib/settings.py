"""The settings that mypy's plugin for Django reads."""

SECRET_KEY = "only for mypy"
INSTALLED_APPS = ["shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql"}}
