create table orders (
    number serial primary key,
    article text not null,
    amount numeric not null,
    settled bool not null default false
);

create table settlements (
    amount numeric not null,
    orders int not null
);

insert into orders (article, amount) values ('tea', 2), ('milk', 0.5);
