package archive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"
)

// OCI is a container image of one static program, for a registry: an OCI image layout
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md). The same program gives the same bytes.
type OCI struct {
	Ref     string // name:tag
	Arch    string // GOARCH
	User    string // numeric, so that runAsNonRoot can be checked
	Program string // path of the program, which is the image's entry point
}

const (
	blobs         = "blobs/sha256/"
	imageManifest = "application/vnd.oci.image.manifest.v1+json"
	imageConfig   = "application/vnd.oci.image.config.v1+json"
	imageLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// epoch is the time of everything in the image.
var epoch = time.Unix(0, 0)

// blob is content that is addressed by its digest.
type blob struct {
	kind    string
	content []byte
}

func (b blob) digest() string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b.content)) }

func (b blob) name() string { return fmt.Sprintf("%s%x", blobs, sha256.Sum256(b.content)) }

func (b blob) descriptor() map[string]any {
	return map[string]any{"mediaType": b.kind, "digest": b.digest(), "size": len(b.content)}
}

// WriteOCI writes the image to the file dest, which appears only when it is complete. `docker load` reads it too.
func WriteOCI(dest string, o OCI) error {
	program, err := os.ReadFile(o.Program)
	if err != nil {
		return err
	}
	name := filepath.Base(o.Program)
	layer, diff, err := programLayer(name, program)
	if err != nil {
		return fmt.Errorf("write the layer: %w", err)
	}
	config, err := document(imageConfig, map[string]any{
		"architecture": o.Arch, "os": "linux", "created": epoch.UTC().Format(time.RFC3339),
		"config": map[string]any{"User": o.User, "Entrypoint": []string{"/" + name}, "WorkingDir": "/"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diff}},
	})
	if err != nil {
		return err
	}
	manifest, err := document(imageManifest, map[string]any{
		"schemaVersion": 2, "mediaType": imageManifest, "config": config.descriptor(), "layers": []any{layer.descriptor()},
	})
	if err != nil {
		return err
	}
	return writeLayout(dest, o.Ref, layer, config, manifest)
}

func document(kind string, content any) (blob, error) {
	text, err := json.Marshal(content)
	return blob{kind, text}, err
}

// programLayer returns the layer, and the digest of what it unpacks to.
func programLayer(name string, program []byte) (layer blob, diff string, err error) {
	var packed, unpacked bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return layer, "", err
	}
	writer := tar.NewWriter(io.MultiWriter(zip, &unpacked))
	header := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(program)), ModTime: epoch, Format: tar.FormatUSTAR}
	err = writer.WriteHeader(header)
	if err == nil {
		_, err = writer.Write(program)
	}
	err = cmp.Or(err, writer.Close(), zip.Close())
	return blob{imageLayer, packed.Bytes()}, blob{content: unpacked.Bytes()}.digest(), err
}

// writeLayout joins the blobs. The index names the image for containerd and for tools such as skopeo; manifest.json is Docker's.
func writeLayout(dest, ref string, layer, config, manifest blob) error {
	entry := manifest.descriptor()
	entry["annotations"] = map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{entry}})
	if err != nil {
		return err
	}
	docker, err := json.Marshal([]map[string]any{{"Config": config.name(), "RepoTags": []string{ref}, "Layers": []string{layer.name()}}})
	if err != nil {
		return err
	}
	unfinished := dest + ".unfinished"
	defer os.Remove(unfinished)
	err = create(unfinished, func(file io.Writer) error {
		archive := tar.NewWriter(file)
		err := writeBytes(archive, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
		for _, folder := range []string{path.Dir(path.Clean(blobs)) + "/", blobs} {
			err = cmp.Or(err, archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: 0o755, ModTime: epoch}))
		}
		for _, b := range []blob{config, layer, manifest} {
			err = cmp.Or(err, writeBytes(archive, b.name(), b.content))
		}
		return cmp.Or(err, writeBytes(archive, "index.json", index), writeBytes(archive, "manifest.json", docker), archive.Close())
	})
	if err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	return os.Rename(unfinished, dest)
}
