module bench/original

go 1.21
