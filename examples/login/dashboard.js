"use strict";
// The cookie goes with the handshake by itself; no script can read it, and none has to.

const UNAUTHORIZED = 3000;
const show = (id, text) => { document.getElementById(id).textContent = text; };
const port = document.querySelector("main").dataset.port;
let wait = 500;

function connect() {
  const socket = new WebSocket(`ws://${location.hostname}:${port}/`);
  socket.onopen = () => { wait = 500; show("state", "live"); };
  socket.onmessage = (event) => {
    const news = JSON.parse(event.data);
    if (news.user !== undefined) show("user", news.user);
    if (news.time !== undefined) show("time", news.time);
    if (news.online !== undefined) show("online", news.online.join(", "));
  };
  socket.onclose = (event) => {
    if (event.code === UNAUTHORIZED) {
      // Logged out in another tab, or the login has expired: connecting again would only be refused.
      show("state", event.reason || "logged out");
      return;
    }
    show("state", "connecting again");
    setTimeout(connect, wait * (0.5 + Math.random()));
    wait = Math.min(wait * 2, 30000);
  };
}

connect();
