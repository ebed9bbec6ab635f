export const render = async () => {
  const [{ render }, { default: Line }] = await Promise.all([import("svelte/server"), import("./Line.server.js")]);
  return render(Line).body;
};

export const mount = async (target) => {
  const [{ flushSync, mount, unmount }, { default: Line }] = await Promise.all([import("svelte"), import("./Line.client.js")]);
  const line = mount(Line, { target });
  flushSync();
  return () => unmount(line);
};
