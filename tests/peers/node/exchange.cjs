// Talks to the echo server whose URL is the first argument; prints as JSON what came back.
// The second argument is a JSON file: text, blob (base64), fragments, code, reason, deflate (may be missing).
"use strict";

const fs = require("node:fs");
const WebSocket = require("ws");

const url = process.argv[2];
const wanted = JSON.parse(fs.readFileSync(process.argv[3], "utf8"));
const seen = { messages: [] };
// The settings of permessage-deflate that it offers; its defaults where there are none.
const socket = new WebSocket(url, { perMessageDeflate: wanted.deflate ?? true });

function sendFragments() {
  wanted.fragments.forEach((fragment, i) => {
    socket.send(fragment, { fin: i === wanted.fragments.length - 1 });
  });
}

// Each step waits for the reply to the one before.
const steps = [
  () => socket.send(wanted.text),
  () => socket.send(Buffer.from(wanted.blob, "base64")),
  sendFragments,
  () => socket.ping("are you there"),
  () => socket.close(wanted.code, wanted.reason),
];

function next() {
  steps.shift()();
}

socket.on("open", () => {
  seen.port = socket._socket.localPort;
  next();
});
socket.on("message", (data, isBinary) => {
  seen.messages.push(isBinary ? { blob: data.toString("base64") } : { text: data.toString() });
  next();
});
socket.on("pong", (data) => {
  seen.pong = data.toString();
  next();
});
socket.on("error", (error) => {
  console.error(error);
  process.exitCode = 1;
});
socket.on("close", (code) => {
  console.log(JSON.stringify({ ...seen, code }));
});
