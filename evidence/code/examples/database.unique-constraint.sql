CREATE TABLE account (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text UNIQUE, name text);
--: with a@example.com Ann
<<CELL>>
--: gives 1|t
--: with a@example.com Anna
<<CELL>>
--: gives 1|f
--: shows inserted is true for a new row and false for an updated one
