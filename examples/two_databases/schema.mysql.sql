create table sales (article varchar(50), number int);
