package timeline

import (
	"bytes"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"quiesce/internal/drain"
)

// WritePage writes a page that needs no other file: the picture, and a table of all pods below it.
func WritePage(w io.Writer, drains []Drain) error {
	var picture bytes.Buffer
	if err := Draw(&picture, drains); err != nil {
		return err
	}
	var page bytes.Buffer
	err := pageTemplate.Execute(&page, struct {
		Title   string
		Picture template.HTML
		Drains  []Drain
	}{title(drains[0]), template.HTML(picture.String()), drains}) // Canvas escapes what reports say
	if err != nil {
		return fmt.Errorf("make the page: %w", err)
	}
	if _, err := w.Write(page.Bytes()); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"title": title,
	"join":  strings.Join,
	"after": func(d Drain, at time.Time) string {
		if at.IsZero() {
			return ""
		}
		return short(at.Sub(d.Report.StartedAt))
	},
	"said": func(p drain.PodReport) string {
		if p.Escort == nil {
			return p.Reason
		}
		return drain.Sentence(p.Reason, p.Escort.Reason)
	},
}).Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{.Title}}</title>
<style>
body{font:14px/1.5 ui-sans-serif,system-ui,sans-serif;color:#24292f;background:#f4f3ee;margin:2rem auto;max-width:1200px;padding:0 1rem}
svg{max-width:100%;height:auto}h2{font-size:16px}
table{border-collapse:collapse;width:100%;background:#fdfdfb}
th,td{text-align:left;vertical-align:top;padding:.25rem .6rem;border-bottom:1px solid #e9e7e0}
th{color:#656d76;font-weight:600}td.time{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
</style>
</head>
<body>
{{.Picture}}
{{range $d := .Drains}}<h2>{{title $d}}</h2>
<table>
<tr><th>phase</th><th>pod</th><th>outcome</th><th>blocked</th><th>told to stop</th><th>deleted</th><th>gone</th><th>PDBs</th><th>reason</th></tr>
{{range .Report.Pods}}<tr><td>{{.Phase}}</td><td>{{.Namespace}}/{{.Name}}</td><td>{{.Outcome}}</td>` +
	`<td class="time">{{after $d .BlockedAt}}</td><td class="time">{{after $d .EvictedAt}}</td><td class="time">{{after $d .ForcedAt}}</td>` +
	`<td class="time">{{after $d .GoneAt}}</td><td>{{join .BlockedBy ", "}}</td><td>{{said .}}</td></tr>
{{end}}</table>
{{end}}</body>
</html>
`))
