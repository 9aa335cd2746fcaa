create table prices (
    article text primary key,
    price int not null
);

insert into prices values ('tea', 4), ('milk', 2);
