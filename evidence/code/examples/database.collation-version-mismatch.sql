<<CELL>>
SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'app';
--: gives b|C.UTF-8
DROP DATABASE app;
--: shows the database takes the builtin provider
