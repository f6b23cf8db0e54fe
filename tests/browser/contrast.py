"""Contrast of what a page shows, worked out in the page from computed styles (WCAG 2.2, 1.4.3 and
1.4.11).

Text must reach 4.5, and lines that mean something 3: curves, points, rings, axes and levels of
figures, frames of clips, the rules of a table's head, squares of runs. Hairlines between rows and
grids are decoration. A disabled control has no limit."""

# A color is [red, green, blue, alpha], 0..255 and 0..1. `over` lays one on an opaque other one.
LOW = """([where, text, line]) => {
    const parse = value => {
        const mixed = /^color\\(srgb ([^)]+)\\)/.exec(value), plain = /^rgba?\\(([^)]+)\\)/.exec(value);
        if (!mixed && !plain) return null;
        const [red, green, blue, alpha = 1] = (mixed ?? plain)[1].split(/[\\s,/]+/).map(Number);
        return [...[red, green, blue].map(one => mixed ? 255 * one : one), alpha];
    };
    const over = (top, under) => top.slice(0, 3).map((one, i) => one * top[3] + under[i] * (1 - top[3]));
    const light = ([red, green, blue]) => [red, green, blue].map(one => one / 255).map(
        one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4).reduce(
        (sum, one, i) => sum + one * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (one, other) => {
        const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const style = one => getComputedStyle(one);
    const behind = one => {  // the opaque color under an element's own drawing
        const layers = [];
        // plotly draws words in a second sheet, over the first one's background
        const sheet = one instanceof SVGElement && one.closest(".js-plotly-plot")?.querySelector(".main-svg");
        for (let at = sheet || one; at; at = at.parentElement) {
            const color = parse(style(at).backgroundColor);
            if (color?.[3]) layers.push(color);
            if (color?.[3] === 1) break;
        }
        return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
    };
    const faded = one => {
        let all = 1;
        for (let at = one; at && at.matches; at = at.parentElement) all *= Number(style(at).opacity);
        return all;
    };
    const seen = one => one.getClientRects().length && style(one).visibility === "visible" && faded(one) > 0.2;
    const found = [];
    const check = (one, color, under, least, what) => {
        if (!color || !color[3]) return;
        const got = ratio(over([...color.slice(0, 3), color[3] * faded(one)], under), under);
        if (got < least) found.push(`${what}: ${got.toFixed(2)} of ${least}, ${color} on ${under}`);
    };
    const inked = one => one instanceof SVGElement ? style(one).fill : style(one).color;
    for (const output of document.querySelectorAll(where)) {
        const walk = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
        for (let node = walk.nextNode(); node; node = walk.nextNode()) {
            const one = node.parentElement, words = node.data.trim();
            if (!words || one.closest("style, script, option, :disabled, .heatmap-label") || !seen(one)) continue;
            check(one, parse(inked(one)), behind(one), text, `text ${JSON.stringify(words.slice(0, 40))}`);
        }
        for (const one of output.querySelectorAll("select:not(:disabled), input:not(:disabled)"))
            if (seen(one)) check(one, parse(style(one).color), behind(one), text, `control ${one.value}`);
        const drawn = ".js-line, .point, .legendlines path, .scatterpts, .xlines-above, .ylines-above, " +
            ".shapelayer path";
        for (const one of output.querySelectorAll(drawn)) {
            if (!seen(one)) continue;
            const stroke = parse(style(one).stroke), fill = parse(style(one).fill);
            const wide = parseFloat(style(one).strokeWidth) > 0 && stroke?.[3] && Number(style(one).strokeOpacity);
            const filled = one.matches(".point, .scatterpts") && fill?.[3] && Number(style(one).fillOpacity);
            // a white ring is a halo: it parts the dark ring that is drawn over it from a heatmap's cell
            const halo = !filled && one.matches(".point") && stroke?.slice(0, 3).every(part => part === 255);
            const color = filled ? fill : wide && !halo && stroke;
            if (color) check(one, color, behind(one), line, `line ${one.getAttribute("class")} of ${
                one.closest(".js-plotly-plot")?.querySelector(".gtitle")?.textContent}`);
        }
        for (const one of output.querySelectorAll("div, span, th")) {
            const {borderBottomStyle: kind, borderBottomWidth: wide, borderBottomColor: color} = style(one);
            if (one.closest("button, .js-plotly-plot, .jupyter-widgets select, .widget-text") || !seen(one)) continue;
            if (kind === "none" || !(parseFloat(wide) >= 2 || one.tagName === "TH" && parseFloat(wide))) continue;
            check(one, parse(color), behind(one.parentElement), line, `frame of ${one.title || one.innerText}`);
        }
    }
    return [...new Set(found)];
}"""
OUTPUTS, TEXT, LINES = ".jp-OutputArea-output", 4.5, 3
