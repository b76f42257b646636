// Drives NiiVue through the anywidget protocol of ipyniivue: objects of ours stand for the Python side.
// The widget asks a model for its state, and reacts to "change:NAME" and "msg:custom".
"use strict";
(() => {
  const box = document.getElementById("viewer");
  const errors = [];
  const complain = (what) => {
    errors.push(String(what));
    box.dataset.errors = errors.join(" | ");
  };
  const logged = console.error;
  console.error = (...what) => {
    complain(what.join(" "));
    logged(...what);
  };
  window.addEventListener("error", (event) => complain(event.message));
  window.addEventListener("unhandledrejection", (event) => complain(event.reason));
  document.addEventListener("securitypolicyviolation", (event) => complain(`refused ${event.blockedURI}`));

  const byId = new Map();
  class Model {
    constructor(state) {
      this.state = state;
      this.listeners = [];
      this._comm_live = false; // nobody to send image data back to
      this.widget_manager = { get_model: (id) => Promise.resolve(byId.get(id)) };
    }
    get(name) { return this.state[name]; }
    set(name, value) { this.state[name] = value; }
    on(event, listener) { this.listeners.push([event, listener]); }
    off(event, listener) {
      this.listeners = this.listeners.filter(([e, l]) => e !== event || (listener && l !== listener));
    }
    emit(event, ...values) {
      return Promise.all(this.listeners.filter(([e]) => e === event).map(([, listener]) => listener(...values)));
    }
    change(name, value) {
      this.set(name, value);
      return this.emit(`change:${name}`);
    }
    command(type, ...data) { return this.emit("msg:custom", { type, data }, []); }
    send(message) { if (this.onmessage) this.onmessage(message); }
    save_changes() {}
    send_sync_message() {}
  }

  const bytesOf = (id) => Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
  async function unzipped(bytes) {
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).blob();
  }
  async function loadWidget() {
    const program = new Blob([await unzipped(bytesOf("niivue"))], { type: "text/javascript" });
    const url = URL.createObjectURL(program);
    try {
      return (await import(url)).default;
    } finally {
      URL.revokeObjectURL(url);
    }
  }

  function volumeModel(volume) {
    const nothing = { name: "" };
    const model = new Model({
      id: volume.name, name: `${volume.name}.nii.gz`, path: nothing, url: "", data: bytesOf(volume.element),
      paired_img_path: nothing, paired_img_url: "", paired_img_data: null,
      cal_min: volume.low, cal_max: volume.high, cal_min_neg: null, cal_max_neg: null,
      colormap: "gray", colormap_negative: "", colormap_label: null, colormap_type: 0, colormap_invert: false,
      colorbar_visible: true, opacity: 1, frame_4d: 0, modulation_image: null, modulate_alpha: 0,
    });
    byId.set(volume.name, model);
    return model;
  }
  const reference = (name) => `IPY_MODEL_${name}`;

  const MULTIPLANAR = 3;
  const options = {
    sliceType: MULTIPLANAR, multiplanarShowRender: 1, isColorbar: true, isRadiologicalConvention: false,
    show3Dcrosshair: true, crosshairWidth: 0.75, crosshairColor: [1, 0.55, 0, 0.9], fontColor: [0.85, 0.85, 0.85, 1],
    dragAndDropEnabled: false, loadingText: "", logLevel: "error", tileMargin: 4, isNearestInterpolation: false,
    clipPlaneColor: [0, 0, 0, 0],
    multiplanarLayout: 2, // two by two
  };

  // The share of the canvas that is not background: what a test, or somebody in doubt, looks at.
  function litShare(canvas) {
    const gl = canvas.getContext("webgl2");
    const pixels = new Uint8Array(4 * gl.drawingBufferWidth * gl.drawingBufferHeight);
    gl.readPixels(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    let lit = 0;
    for (let i = 0; i < pixels.length; i += 4) if (pixels[i] + pixels[i + 1] + pixels[i + 2] > 30) lit += 1;
    return (4 * lit) / pixels.length;
  }

  async function start() {
    const volumes = JSON.parse(document.getElementById("viewer-volumes").textContent);
    const status = document.getElementById("viewer-status");
    const where = document.getElementById("viewer-where");
    if (!document.createElement("canvas").getContext("webgl2") || !window.DecompressionStream) {
      box.dataset.state = "unavailable";
      status.textContent = "This browser has no WebGL 2, which the 3-D viewer needs; all else on this page is complete.";
      return;
    }
    const widget = await loadWidget();
    const models = new Map(volumes.map((volume) => [volume.name, [volume, volumeModel(volume)]]));
    let shown = volumes[0];
    const main = new Model({
      opts: options, height: 700, volumes: [reference(shown.name)], meshes: [], this_model_id: "", graph: {}, scene: {},
      draw_lut: null, draw_opacity: 0.8, draw_fill_overwrites: true, overlay_outline_width: 0, overlay_alpha_shader: 1,
      background_masks_overlays: 0,
    });
    main.onmessage = ({ event, data }) => {
      if (event !== "location_change" || !data.values || !data.values.length) return;
      const value = data.values[0].value;
      const at = [...data.mm].slice(0, 3).map((mm) => mm.toFixed(0)).join(", ");
      const text = value < shown.floor ? "outside the mask" : `${value.toPrecision(3)} ${shown.unit}`;
      where.textContent = `(${at}) mm: ${text}`;
    };

    const low = document.getElementById("viewer-low");
    const high = document.getElementById("viewer-high");
    const map = document.getElementById("viewer-map");
    const view = document.getElementById("viewer-view");
    const ready = async () => {
      let lit = 0;
      for (let tries = 0; tries < 100 && lit === 0; tries += 1) {
        await main.command("draw_scene"); // draws nothing until fonts and shaders are there
        lit = litShare(box.querySelector("canvas"));
        if (lit === 0) await new Promise((resolve) => setTimeout(resolve, 100));
      }
      if (lit === 0) throw new Error("nothing was drawn");
      box.dataset.lit = lit.toFixed(3);
      box.dataset.shown = shown.name;
      box.dataset.state = "ready";
      status.textContent = "";
    };
    const showWindow = () => {
      [low.value, high.value] = [shown.low, shown.high].map((v) => Number(v.toPrecision(4)));
      for (const input of [low, high]) input.step = Number(((shown.high - shown.low) / 20).toPrecision(1));
      document.getElementById("viewer-unit").textContent = shown.unit;
    };
    map.addEventListener("change", async () => {
      box.dataset.state = "loading";
      shown = models.get(map.value)[0];
      showWindow();
      const model = models.get(map.value)[1];
      model.set("cal_min", shown.low);
      model.set("cal_max", shown.high);
      await main.change("volumes", [reference(shown.name)]);
      await ready();
    });
    view.addEventListener("change", async () => {
      await main.change("opts", { ...options, sliceType: Number(view.value) });
      await ready();
    });
    for (const input of [low, high]) {
      input.addEventListener("change", async () => {
        if (!(Number(low.value) < Number(high.value))) return;
        const model = models.get(shown.name)[1];
        await model.change("cal_min", Number(low.value));
        await model.change("cal_max", Number(high.value));
        await ready();
      });
    }
    showWindow();
    await widget.initialize({ model: main });
    await widget.render({ model: main, el: document.getElementById("viewer-canvas") });
    document.getElementById("viewer-controls").hidden = false;
    await ready();
  }

  start().catch((error) => {
    complain(error);
    box.dataset.state = "failed";
    document.getElementById("viewer-status").textContent = `The 3-D viewer did not start: ${error}`;
  });
})();
