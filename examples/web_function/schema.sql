create table orders (
    number serial primary key,
    article text not null,
    amount int not null default 1 check (amount > 0)
);
