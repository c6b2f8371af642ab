package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/spf13/cobra"

	"quiesce/internal/termination"
	"quiesce/internal/timeline"
)

type timelineOptions struct {
	*options
	to string
}

func newTimeline(o *options) *cobra.Command {
	t := &timelineOptions{options: o}
	command := &cobra.Command{
		Use:   "timeline REPORT...",
		Short: "Draw drains from their reports",
		Long: "timeline draws drains: one bar per pod, from when it could have left to when it was gone.\n" +
			"The reports of one instance are one drain, also if several invocations did it.\n\n" +
			"A REPORT is a file with answers of the function or lines of its log, - for standard input, or a prefix of the bucket that\n" +
			"stack.archiveReports makes: s3://BUCKET/CLUSTER/2026/03/02/i-0abc.",
		Example: "  quiescectl timeline report.json --to drain.svg\n" +
			"  quiescectl timeline s3://quiesce-reports/prod/2026/03/02/ --to last-night.html\n" +
			"  aws logs filter-log-events --log-group-name /aws/lambda/quiesce-prod --query 'events[].message' --output text |\n" +
			"    quiescectl timeline - --to drain.html",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, reports []string) error { return t.run(c, reports) },
	}
	command.Flags().StringVar(&t.to, "to", "", "file to write: .svg for a picture, .html for a page with a table; default a picture on standard output")
	return command
}

func (t *timelineOptions) run(c *cobra.Command, sources []string) error {
	draw := timeline.Draw
	switch extension := filepath.Ext(t.to); {
	case extension == ".html":
		draw = timeline.WritePage
	case t.to != "" && extension != ".svg":
		return fmt.Errorf("--to must end in .svg or .html, not %q", t.to)
	}
	var reports []termination.Report
	for _, source := range sources {
		found, err := t.read(c.Context(), source, c.InOrStdin())
		if err != nil {
			return fmt.Errorf("%s: %w", source, err)
		}
		reports = append(reports, found...)
	}
	var picture bytes.Buffer
	if err := draw(&picture, timeline.Join(reports)); err != nil {
		return err
	}
	if t.to == "" {
		_, err := c.OutOrStdout().Write(picture.Bytes())
		return err
	}
	if err := os.WriteFile(t.to, picture.Bytes(), 0o644); err != nil { // a picture is no secret
		return fmt.Errorf("--to: %w", err)
	}
	fmt.Fprintln(c.ErrOrStderr(), "wrote", t.to)
	return nil
}

// read reads the reports of one source.
func (t *timelineOptions) read(ctx context.Context, source string, in io.Reader) ([]termination.Report, error) {
	if rest, is := strings.CutPrefix(source, "s3://"); is {
		bucket, prefix, _ := strings.Cut(rest, "/")
		settings, err := t.loadAWS(ctx, awsconfig.LoadDefaultConfig, awsconfig.WithRegion(t.region))
		if err != nil {
			return nil, t.advised(err, "", "")
		}
		found, err := loadReports(ctx, settings, bucket, prefix)
		return found, t.advised(err, "", "s3:ListBucket and s3:GetObject for the bucket")
	}
	if source == "-" {
		return timeline.Read(in)
	}
	file, err := os.Open(source)
	if err != nil {
		return nil, errors.Unwrap(err) // the caller names the file
	}
	defer func() { _ = file.Close() }()
	return timeline.Read(file)
}
