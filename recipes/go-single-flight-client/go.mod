module example.com/prices

go 1.27

require golang.org/x/sync v0.25.0
