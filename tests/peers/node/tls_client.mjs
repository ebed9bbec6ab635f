// Node's own fetch and WebSocket against a broker that serves TLS: publishes by HTTPS what it hears by WSS.
//
// Usage: tls_client.mjs https://HOST:PORT, with NODE_EXTRA_CA_CERTS naming the CA.

const base = process.argv[2];
const socket = new WebSocket(`${base.replace(/^http/, 'ws')}/ws`);
socket.onerror = (event) => {
  console.error(event.message ?? 'the WebSocket failed');
  process.exit(1);
};
socket.onopen = () => socket.send(JSON.stringify({ type: 'subscribe', id: 1, topic: 'node', from: 'earliest' }));
socket.onmessage = async ({ data }) => {
  const frame = JSON.parse(data);
  if (frame.type === 'subscribed') {
    const answer = await fetch(`${base}/v1/topics/node/messages`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '"hello"',
    });
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  } else if (frame.type === 'message') {
    console.log(`published and heard ${frame.data}`);
    socket.close();
  }
};
