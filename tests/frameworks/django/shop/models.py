"""The one application of these tests."""

from django.db import models


class Order(models.Model):  # type: ignore[misc]
    """Something that was bought."""

    name = models.CharField(max_length=50)
    placed = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return str(self.name)
