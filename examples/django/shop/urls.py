"""Two views: one shows an order, the other makes a new one.

A client that tries again makes a second order, unless it sends the same key with both requests (`Idempotency-Key`, a
UUID for each order), which is kept in a unique column.
"""

import json

from django.db import transaction
from django.db.models import F
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from .models import Article, Order

MOST = 2**31 - 1


@require_GET
def order(request, number):
    found = get_object_or_404(Order.objects.select_related("article"), pk=number)
    return JsonResponse({"number": found.pk, "article": found.article.name, "amount": found.amount})


@csrf_exempt
@require_POST
def orders(request):
    try:
        asked = json.loads(request.body)
        name, amount = asked["article"], asked["amount"]
    except (TypeError, KeyError, ValueError):
        return JsonResponse({"error": 'send {"article": "…", "amount": 1}'}, status=400)
    if not isinstance(name, str) or not name.isprintable() or type(amount) is not int or not 1 <= amount <= MOST:
        return JsonResponse({"error": f"an article's name, and a whole number from 1 to {MOST}"}, status=400)
    article = get_object_or_404(Article, name=name)
    key = request.headers.get("Idempotency-Key") or None
    with transaction.atomic():
        if key is None:
            made, new = Order.objects.create(article=article, amount=amount), True
        else:
            made, new = Order.objects.get_or_create(message=key, defaults={"article": article, "amount": amount})
        if not new:
            # The first try was saved, and only its answer was lost.
            return JsonResponse({"number": made.pk})
        enough = Article.objects.filter(pk=article.pk, left_over__gte=amount)
        if not enough.update(left_over=F("left_over") - amount):
            transaction.set_rollback(True)
            return JsonResponse({"error": f"there are not {amount} of {name} left"}, status=400)
    return JsonResponse({"number": made.pk}, status=201)


urlpatterns = [path("orders", orders), path("orders/<int:number>", order)]
