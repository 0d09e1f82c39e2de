// What every page does with scripts on. Without them each page is whole: plots are drawn by the server, forms are plain.
import { followJob } from "./job.js";
import { drawPlots } from "./plots.js";

function askOnce(form) {
  // A second click must not send a form twice; the button says that something happens.
  form.addEventListener("submit", (event) => {
    const button = event.submitter;
    setTimeout(() => {
      for (const one of form.querySelectorAll("button")) one.disabled = true;
      if (button && form.dataset.busy) button.textContent = form.dataset.busy;
    });
  });
}

function askOnEnter(area) {
  area.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      area.form.requestSubmit();
    }
  });
}

function showPreset(form) {
  const fields = form.querySelectorAll("[data-preset-recipe]");
  for (const radio of form.querySelectorAll("input[name=preset]")) {
    radio.addEventListener("change", () => {
      for (const field of fields) field.placeholder = field.getAttribute(`data-preset-${radio.value}`);
    });
  }
}

for (const form of document.querySelectorAll("form[method=post]")) askOnce(form);
for (const area of document.querySelectorAll("[data-submit-on-enter]")) askOnEnter(area);
for (const form of document.querySelectorAll("form")) showPreset(form);
for (const field of document.querySelectorAll("[data-select-on-focus]")) {
  field.addEventListener("focus", () => field.select());
  if (field === document.activeElement) field.select();
}
window.addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("form[method=post] button")) button.disabled = false;
});
document.querySelector("[aria-invalid=true]")?.focus();

const plots = drawPlots();
const job = document.querySelector("[data-job]");
if (job) followJob(job, plots);
