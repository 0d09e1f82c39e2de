// Makes the server's drawings live with plotly. The data is the server's; colours and type are the stylesheet's.
function loadPlotly() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = document.body.dataset.plotly;
    script.onload = () => resolve(window.Plotly);
    script.onerror = reject;
    document.head.append(script);
  });
}

function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function faded(rgb) {
  return rgb.replace("rgb(", "rgba(").replace(")", ", 0.4)");
}

// plotly reads markup in its texts; a dataset's names are no markup.
function plain(value) {
  return typeof value === "string" ? value.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;") : value;
}

function isNamed(plot) {
  return plot.series.some((one) => one.x.some((value) => typeof value === "string"));
}

function trace(plot, series, number) {
  const ink = colour(series.kind === "faint" ? "muted" : `series-${(number % 6) + 1}`);
  const names = series.x.map(plain);
  const common = { name: plain(series.name), x: names, y: series.y };
  if (series.kind === "bars") {
    const bars = { ...common, type: "bar", marker: { color: ink }, hovertemplate: `%{x}: %{y${plot.y_percent ? ":.1%" : ""}}<extra></extra>` };
    if (plot.across) Object.assign(bars, { x: series.y, y: names, orientation: "h", hovertemplate: `%{y}: %{x${plot.y_percent ? ":.1%" : ""}}<extra></extra>` });
    if (series.low.length) {
      bars[plot.across ? "error_x" : "error_y"] = {
        type: "data",
        symmetric: false,
        array: series.high.map((high, place) => high - series.y[place]),
        arrayminus: series.low.map((low, place) => series.y[place] - low),
        color: colour("ink"),
        thickness: 1.3,
        width: 5,
      };
    }
    return bars;
  }
  const line = { ...common, type: "scatter", mode: series.kind === "dots" || series.x.length === 1 ? "markers" : "lines" };
  line.line = series.kind === "faint" ? { color: faded(ink), width: 1 } : { color: ink, width: 2.2 };
  line.marker = { color: ink, size: 7 };
  if (series.kind === "faint") line.hoverinfo = "skip";
  return line;
}

function layout(plot, height) {
  const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line"), automargin: true };
  const made = {
    height,
    margin: { l: 52, r: 14, t: 10, b: 42 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour("muted") },
    xaxis: { ...axis, title: { text: plot.x_title, standoff: 8 }, showgrid: false },
    yaxis: { ...axis, title: { text: "" }, rangemode: plot.y_from_zero ? "tozero" : "normal" },
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line"), font: { color: colour("ink") } },
    showlegend: false,
    bargap: 0.28,
    barmode: "group",
  };
  // Codes such as 30 are names, too.
  if (isNamed(plot)) made.xaxis.type = "category";
  if (plot.y_percent) made.yaxis.tickformat = ".0%";
  if (plot.x_percent) made.xaxis.tickformat = ".0%";
  if (plot.across) {
    made.yaxis = { ...axis, type: "category", autorange: "reversed", showgrid: false, ticksuffix: "  " };
    made.xaxis = { ...axis, rangemode: "tozero" };
    if (plot.y_percent) made.xaxis.tickformat = ".0%";
    made.margin.l = 20;
  }
  return made;
}

class LivePlot {
  constructor(figure, plotly) {
    this.canvas = figure.querySelector(".canvas");
    this.plot = JSON.parse(figure.dataset.plot);
    this.plotly = plotly;
    this.draw();
  }

  isEmpty() {
    return this.plot.series.every((one) => one.x.length === 0);
  }

  draw() {
    if (this.isEmpty()) return;
    const bars = this.plot.across ? this.plot.series[0].x.length : 0;
    const height = bars ? Math.max(200, 24 * bars + 60) : 280;
    if (!this.isDrawn) this.canvas.replaceChildren();
    this.isDrawn = true;
    const traces = this.plot.series.map((one, number) => trace(this.plot, one, number));
    const options = { responsive: true, displayModeBar: false, scrollZoom: false };
    this.plotly.react(this.canvas, traces, layout(this.plot, height), options);
  }
}

export async function drawPlots() {
  const figures = [...document.querySelectorAll("figure.plot")];
  if (!figures.length) return [];
  const plotly = await loadPlotly();
  const plots = figures.map((figure) => new LivePlot(figure, plotly));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const one of plots) one.draw();
  });
  return plots;
}
