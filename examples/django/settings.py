"""The environment says where the database is and how to log in: LAMBDA_POOL_URL and related variables."""

import os

DATABASES = {"default": {"ENGINE": os.environ.get("SHOP_ENGINE", "lambda_pool.django.postgresql")}}
INSTALLED_APPS = ["shop"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "shop.urls"
# For sessions and signatures, which this application does not use.
SECRET_KEY = os.environ.get("SHOP_SECRET_KEY", "not used here")
ALLOWED_HOSTS = [".amazonaws.com", "localhost"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
