import unlimitedws
from unlimitedws import wsutil

server = unlimitedws.DefaultServer(":8000")

@server.on_connect
def welcome(conn):
    print("welcome", conn.local_addr, ">", conn.remote_addr)

@server.on_read
def echo(conn):
    msg, op = wsutil.read_client_data(conn)
    wsutil.write_server_message(conn, op, msg)

@server.on_close
def goodbye(conn):
    print("goodbye", conn.remote_addr)

server.run()
