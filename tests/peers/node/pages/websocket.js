// What a page needs to follow TOPIC with nothing but WebSocket: where it is, and a line to come back with. Leaves its messages in `seen`.
window.seen = [];
window.connections = 0;
let cursor = null;

function open() {
  const socket = new WebSocket(`ws://${location.host}/ws`);
  socket.onopen = () => {
    connections++;
    socket.send(JSON.stringify({ type: "subscribe", topic: "TOPIC", from: cursor ? { after: cursor } : "earliest" }));
  };
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.cursor) cursor = frame.cursor;
    if (frame.type === "gap" || frame.type === "error") seen.push(frame);
    if (frame.type === "message") {
      cursor = `${cursor.split(":")[0]}:${frame.offset}`;
      seen.push(frame);
    }
  };
  socket.onclose = () => setTimeout(open, 100);
}
open();
