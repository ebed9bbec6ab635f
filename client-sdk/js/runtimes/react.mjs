import { createElement, StrictMode, useEffect, useState } from "react";
import { follow } from "./follow.mjs";

function Line() {
  const [text, setText] = useState("nothing yet");
  useEffect(() => {
    const hark = follow("react", setText);
    return () => hark.close();
  }, []);
  return createElement("p", null, text);
}

export const render = async () => (await import("react-dom/server")).renderToString(createElement(Line));

export const mount = async (into) => {
  const root = (await import("react-dom/client")).createRoot(into);
  // Strict, it begins each effect twice.
  root.render(createElement(StrictMode, null, createElement(Line)));
  return () => root.unmount();
};
