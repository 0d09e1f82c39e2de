// Keeps a job's page current: the server's events move the curve, its own fragment replaces what changes.
const DRAW_MS = 400;
// Looked at this often even where no event comes: a proxy may hold the stream back, or there are too many streams.
const LOOK_MS = 5000;

function runningMean(values) {
  const window = Math.max(1, Math.floor(values.length / 20));
  const means = [];
  let total = 0;
  values.forEach((value, place) => {
    total += value - (place >= window ? values[place - window] : 0);
    means.push(total / Math.min(place + 1, window));
  });
  return means;
}

async function renewState(section, id) {
  const reply = await fetch(`/console/jobs/${id}/state`, { credentials: "same-origin" });
  if (!reply.ok) return false;
  const html = await reply.text();
  const focused = document.activeElement?.id;
  section.innerHTML = html;
  if (focused && document.activeElement?.id !== focused) document.getElementById(focused)?.focus();
  return section.querySelector("#state").dataset.over === "yes";
}

export async function followJob(section, drawing) {
  const id = section.dataset.job;
  if (section.querySelector("#state").dataset.over === "yes") return;
  const points = new Map();
  let changed = false;
  let looked = Date.now();
  const stream = new EventSource(`/v1/fine_tuning/jobs/${id}/events?stream=true`);
  let isDone = false;
  stream.onmessage = (message) => {
    if (message.data === "[DONE]") {
      isDone = true;
      stream.close();
      return;
    }
    const event = JSON.parse(message.data);
    changed = true;
    if (event.data && "loss" in event.data && "step" in event.data) points.set(event.data.step, event.data.loss);
  };
  const plot = (await drawing).find((one) => one.plot.live === "loss");
  for (;;) {
    await new Promise((wake) => setTimeout(wake, DRAW_MS));
    if (changed || isDone || Date.now() - looked > LOOK_MS) {
      changed = false;
      looked = Date.now();
      if (plot && points.size) {
        const steps = [...points.keys()].sort((one, other) => one - other);
        const losses = steps.map((step) => points.get(step));
        Object.assign(plot.plot.series[0], { x: steps, y: runningMean(losses) });
        Object.assign(plot.plot.series[1], { x: steps, y: losses });
        plot.draw();
      }
      if ((await renewState(section, id)) || isDone) break;
    }
  }
  stream.close();
  // The story, the scores and the checkpoints are in the whole page.
  location.reload();
}
