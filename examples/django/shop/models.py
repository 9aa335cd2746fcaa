"""An article that is bought, and how much of it is left."""

from django.db import models


class Article(models.Model):
    """Something in stock."""

    name = models.CharField(max_length=50, unique=True)
    left_over = models.PositiveIntegerField()

    def __str__(self):
        return self.name


class Order(models.Model):
    """A number of one article."""

    article = models.ForeignKey(Article, on_delete=models.PROTECT)
    amount = models.PositiveIntegerField()
    message = models.CharField(max_length=64, unique=True, null=True)

    def __str__(self):
        return f"{self.amount} of {self.article}"
