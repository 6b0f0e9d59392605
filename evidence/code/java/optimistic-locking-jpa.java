class Code {
    interface ProductRepository extends JpaRepository<Product, Long> { }
    ProductRepository products;

    <<CELL>>
}
