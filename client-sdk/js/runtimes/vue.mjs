import { createSSRApp, createApp, h, isProxy, onMounted, onUnmounted, reactive, ref } from "vue";
import { follow } from "./follow.mjs";

const Line = {
  setup() {
    const text = ref("nothing yet");
    const hark = ref();
    const kept = reactive({});
    onMounted(() => {
      hark.value = follow("vue", (data) => (text.value = data));
      kept.hark = hark.value;
      if (isProxy(hark.value) || kept.hark.state !== "connecting") console.error("Vue took the client apart");
    });
    onUnmounted(() => hark.value.close());
    return () => h("p", text.value);
  },
};

export const render = async () => (await import("vue/server-renderer")).renderToString(createSSRApp(Line));

export const mount = async (into) => {
  const app = createApp(Line);
  app.mount(into);
  return () => app.unmount();
};
