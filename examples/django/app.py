"""Django behind Mangum. A warm request sends only the queries of the views.

`handler` serves the application. `migrate` is a function of its own: invoke it once for each deployment.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")

from django.core.asgi import get_asgi_application
from django.core.management import call_command
from mangum import Mangum

import lambda_pool.django

application = get_asgi_application()
handler = lambda_pool.django.handler(Mangum(application, lifespan="off"))


@lambda_pool.django.handler
def migrate(event, context):
    call_command("migrate", interactive=False, verbosity=0)
    return "migrated"
