// What a page needs to follow TOPIC with nothing but EventSource, which comes back by itself. Leaves its messages in `seen`.
window.seen = [];
window.connections = 0;

const source = new EventSource("/v1/topics/TOPIC/events?from=earliest");
source.onopen = () => connections++;
source.onmessage = ({ data, lastEventId }) => seen.push({ ...JSON.parse(data), cursor: lastEventId });
source.addEventListener("gap", ({ data }) => seen.push(JSON.parse(data)));
source.onerror = ({ data }) => {
  if (data) seen.push(JSON.parse(data));
  if (source.readyState === EventSource.CLOSED) seen.push({ type: "gave_up" });
};
