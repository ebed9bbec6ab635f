// @ts-check
// The live chart: messages a second over the last minute, on a canvas. Owns the counting and the drawing; knows nothing of Hark.

const SECONDS = 60;

/**
 * @param {HTMLCanvasElement} canvas
 * @param {(rate: number, peak: number) => void} told once a second
 */
export const startChart = (canvas, told) => {
  /** Messages by second since 1970. @type {Map<number, number>} */
  const counts = new Map();
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let highest = 5;
  let toldAt = 0;

  const draw = () => {
    const now = Date.now() / 1000;
    const second = Math.floor(now);
    const { width, height } = canvas.getBoundingClientRect();
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    for (const at of counts.keys()) if (at < second - SECONDS - 2) counts.delete(at);
    const peak = Math.max(0, ...counts.values());
    // The scale follows smoothly, so that a burst does not make the rest jump.
    const top = Math.max(5, peak * 1.15);
    highest += still.matches ? top - highest : (top - highest) * 0.12;

    const style = getComputedStyle(canvas);
    const accent = style.getPropertyValue("--accent");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.strokeStyle = style.getPropertyValue("--line");
    context.lineWidth = 1;
    context.beginPath();
    for (const part of [0, 0.5, 1]) {
      const y = Math.round(1 + (height - 2) * part) - 0.5;
      context.moveTo(0, y);
      context.lineTo(width, y);
    }
    context.stroke();

    // The second that runs is not over: the line ends with the last whole one, and moves on smoothly.
    const part = still.matches ? 0 : now - second;
    const points = Array.from({ length: SECONDS + 2 }, (_, at) => ({
      x: ((at - part) / SECONDS) * width,
      y: height - 1 - ((counts.get(second - SECONDS - 1 + at) ?? 0) / highest) * (height - 4),
    }));
    context.beginPath();
    context.moveTo(points[0].x, points[0].y);
    for (let at = 1; at < points.length - 1; at++) {
      const [here, before] = [points[at], points[at - 1]];
      const middle = (before.x + here.x) / 2;
      context.bezierCurveTo(middle, before.y, middle, here.y, here.x, here.y);
    }
    context.strokeStyle = accent;
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.stroke();
    context.lineTo(points[points.length - 2].x, height);
    context.lineTo(points[0].x, height);
    context.globalAlpha = 0.14;
    context.fillStyle = accent;
    context.fill();
    context.globalAlpha = 1;

    if (toldAt !== second) {
      toldAt = second;
      told(counts.get(second - 1) ?? 0, peak);
    }
    if (still.matches) setTimeout(draw, 1000);
    else requestAnimationFrame(draw);
  };
  draw();

  return {
    /**
     * @param {number} timeMs
     */
    count(timeMs) {
      const second = Math.floor(timeMs / 1000);
      counts.set(second, (counts.get(second) ?? 0) + 1);
    },
    clear() {
      counts.clear();
    },
  };
};
