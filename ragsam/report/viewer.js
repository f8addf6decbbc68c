// The report's 3D view: NiiVue over the volumes in the page. Nothing is fetched; text is only ever set as text.
"use strict";
(() => {
  const DECODED = 352; // bytes before the voxels: a NIfTI-1 header and its four bytes of extension
  const at = (name) => document.getElementById(`viewer-${name}`);
  const settings = JSON.parse(at("settings").textContent);
  let view = null; // NiiVue, once it is open
  let shown = []; // names of its volumes, in its order

  async function unpack(text) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).arrayBuffer();
  }

  function loadNiivue() {
    return new Promise((done, fail) => {
      document.addEventListener("niivue", () => done(globalThis.Niivue), { once: true });
      unpack(at("code").textContent).then((bytes) => {
        const script = document.createElement("script");
        script.type = "module";
        script.textContent = new TextDecoder().decode(bytes);
        script.addEventListener("error", () => fail(new Error("its code does not run")));
        document.head.append(script);
      }, fail);
    });
  }

  function difference(reference, prediction) {
    const result = reference.slice(0);
    const wide = new DataView(reference).getInt16(72, true) > 8 ? Uint16Array : Uint8Array; // bitpix
    const [first, second, out] = [reference, prediction, result].map((buffer) => new wide(buffer, DECODED));
    for (let i = 0; i < out.length; i++) {
      out[i] = first[i] === second[i] ? 0 : second[i] === 0 ? 1 : first[i] === 0 ? 2 : 3;
    }
    return result;
  }

  async function read(content) {
    const buffers = {};
    for (const [name, text] of Object.entries(content.volumes)) buffers[name] = await unpack(text);
    if (!buffers.image) {
      buffers.image = buffers.reference.slice(0);
      new Uint8Array(buffers.image, DECODED).fill(0);
    }
    if (buffers.prediction) buffers.difference = difference(buffers.reference, buffers.prediction);
    return buffers;
  }

  async function showCase() {
    const content = JSON.parse(at(`case-${at("case").value}`).textContent);
    const buffers = await read(content);
    while (view.volumes.length) view.removeVolume(view.volumes[0]);
    shown = ["image", "reference", "prediction", "difference"].filter((name) => buffers[name]);
    for (const name of shown) await view.loadFromArrayBuffer(buffers[name], `${name}.nii`);
    shown.forEach((name, index) => {
      const volume = view.volumes[index];
      if (name !== "image") return volume.setColormapLabel(name === "difference" ? settings.differences : settings.labels);
      [volume.cal_min, volume.cal_max] = [0, settings.greys - 1];
      volume.colormap = "ragsam";
    });
    fillLayers();
    showLayer();
    view.scene.crosshairPos = content.start;
    view.createOnLocationChange();
    view.drawScene();
    at("state").textContent = [`${content.size}.`, ...content.notes].join(" ");
  }

  function fillLayers() {
    const before = at("layer").value;
    const names = [...shown.filter((name) => name !== "image"), "none"];
    at("layer").replaceChildren(...names.map((name) => new Option(name, name)));
    at("layer").value = names.includes(before) ? before : names[0];
  }

  function showLayer() {
    const strength = Number(at("strength").value) / 100;
    shown.forEach((name, index) => {
      view.volumes[index].opacity = name === "image" ? 1 : name === at("layer").value ? strength : 0;
    });
    view.updateGLVolume();
  }

  function showView() {
    view.setMultiplanarLayout(at("stage").clientWidth > 760 ? 3 : 2); // a row, or two by two
    view.setSliceType(Number(at("view").value));
  }

  function showPlace(place) {
    const told = shown.flatMap((name, index) => {
      if (name !== "reference" && name !== "prediction") return [];
      const value = place.values[index] ? place.values[index].value : 0;
      const found = settings.labels.I.indexOf(Math.round(value));
      return [`${name}: ${(found > 0 && settings.labels.labels[found]) || "nothing"}`];
    });
    at("place").textContent = `At the crosshair: ${told.join("; ")}.`;
  }

  async function open() {
    at("open").disabled = true;
    at("state").textContent = "Opening ...";
    try {
      const Niivue = await loadNiivue();
      for (const name of ["controls", "stage", "place"]) at(name).hidden = false;
      view = new Niivue({
        backColor: [0, 0, 0, 1], crosshairWidth: 0.6, crosshairWidthUnit: "percent", dragAndDropEnabled: false, isOrientCube: true, isRadiologicalConvention: true,
        loadingText: "", logLevel: "error", multiplanarShowRender: 1, show3Dcrosshair: true,
      });
      view.onLocationChange = showPlace;
      // Grey in the planes, clear in 3D, so that the body does not hide its organs.
      await view.attachToCanvas(at("canvas"));
      view.addColormap("ragsam", { R: [0, 255], G: [0, 255], B: [0, 255], A: [0, 0], I: [0, 255] });
      view.setInterpolation(true); // voxels as they are
      await view.setVolumeRenderIllumination(0.4);
      showView();
      await showCase();
    } catch (error) {
      for (const name of ["controls", "stage", "place"]) at(name).hidden = true;
      at("state").textContent = `The interactive view cannot be shown here (${error.message}); still pictures stand for it.`;
      return;
    }
    at("open").hidden = true;
    at("stills").classList.add("replaced");
    at("case").addEventListener("change", showCase);
    at("layer").addEventListener("change", showLayer);
    at("strength").addEventListener("input", showLayer);
    at("view").addEventListener("change", showView);
  }

  const able = document.createElement("canvas").getContext("webgl2") && "DecompressionStream" in globalThis;
  at("state").textContent = able
    ? "Turn it with the mouse or a finger; scroll over a plane to move through it."
    : "This browser shows no WebGL 2, which the interactive view needs; still pictures stand for it.";
  if (!able || !at("case").options.length) return;
  at("open").hidden = false;
  at("open").addEventListener("click", open);
})();
