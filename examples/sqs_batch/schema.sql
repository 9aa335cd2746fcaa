create table orders (
    number serial primary key,
    message text unique,
    article text not null,
    amount int not null default 1 check (amount > 0)
);

create table stock (
    article text primary key,
    left_over int not null
);

insert into stock values ('tea', 3), ('milk', 2);
