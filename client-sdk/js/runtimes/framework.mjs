// A framework's component as it is rendered by a server, without a window, or mounted in one. Prints what it shows: of a mounted one, when it shows
// something new.
//
// Usage: framework.mjs URL react|vue|svelte render|mount
const [, framework, what] = process.argv.slice(2);
if (what === "mount") await import("./window.mjs");
const { render, mount } = await import(`./${framework}.mjs`);

if (what === "render") {
  if (globalThis.window) throw new Error("there is a window");
  console.log(await render());
} else {
  const into = document.querySelector("#app");
  const unmount = await mount(into);
  await new Promise((resolve) => {
    const look = () => /by \w+/.test(into.textContent) && resolve();
    new MutationObserver(look).observe(into, { childList: true, characterData: true, subtree: true });
    look();
  });
  console.log(into.textContent);
  await unmount();
  window.close();
}
