"""A web application with FastAPI and SQLModel, behind Mangum.

The pool's decorator goes around the adapter. So every request has the invocation's deadline, and anything that a route
left behind is cleaned up before Lambda freezes the environment. Each request has a session of its own.
"""

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from mangum import Mangum
from sqlmodel import Field, Session, SQLModel

import lambda_pool
from lambda_pool.fastapi import session
from lambda_pool.sqlalchemy import create_engine

pool = lambda_pool.Pool()
engine = create_engine(pool)


class Order(SQLModel, table=True):
    __tablename__ = "orders"
    number: int | None = Field(default=None, primary_key=True)
    article: str
    amount: int = 1


# Committed before the answer is sent, so that the answer can still report a refusal.
Database = Annotated[Session, Depends(session(engine, class_=Session), scope="function")]

app = FastAPI()


@app.get("/orders/{number}")
def get_order(number: int, database: Database) -> Order:
    order = database.get(Order, number)
    if order is None:
        raise HTTPException(404)
    return order


@app.post("/orders", status_code=201)
def post_order(order: Order, database: Database) -> Order:
    database.add(order)
    database.flush()
    database.refresh(order)
    if order.amount > 100:
        raise HTTPException(409, "too many")  # this leaves the session: nothing is saved
    return order


handler = pool.handler(Mangum(app, lifespan="off"))
