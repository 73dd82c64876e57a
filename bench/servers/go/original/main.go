// The Go original: DefaultServer, OnRead, wsutil. It does not tell its port, so a free one is looked for.
package main

import (
	"fmt"
	"net"
	"time"

	"github.com/gobwas/ws/wsutil"
	"github.com/hxt365/unlimitedws"
)

func freeAddress() string {
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	return fmt.Sprintf(":%d", listener.Addr().(*net.TCPAddr).Port)
}

func main() {
	address := freeAddress()
	server, err := unlimitedws.DefaultServer(address)
	if err != nil {
		panic(err)
	}
	server.OnRead = func(conn net.Conn) error {
		message, op, err := wsutil.ReadClientData(conn)
		if err != nil {
			return err
		}
		return wsutil.WriteServerMessage(conn, op, message)
	}
	go func() {
		for {
			conn, err := net.Dial("tcp", "127.0.0.1"+address)
			if err == nil {
				conn.Close()
				fmt.Println(address[1:])
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	server.Run()
}
