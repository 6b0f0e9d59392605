class ImportException extends Exception { }
interface OrderTable { void insert(Order order); }
interface StockTable { void reserve(Order order) throws ImportException; }

<<CELL>>
