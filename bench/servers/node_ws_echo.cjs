// Node's ws with its defaults: no compression.
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "0.0.0.0", port: 0, backlog: 4096 });
server.on("connection", (socket) => {
  socket.on("error", () => {}); // one that left with RST; ws closes it by itself
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
});
server.on("listening", () => console.log(server.address().port));
