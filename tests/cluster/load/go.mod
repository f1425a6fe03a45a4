module meshroot.test/load

go 1.25
