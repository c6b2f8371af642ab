package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

// yamlBuffer is how much of a manifest is read to see whether it is JSON.
const yamlBuffer = 4096

// Create creates the objects of a manifest file, as a cluster admin. It is Apply for objects that do not exist yet, and needs no kubectl,
// which a demo would have to build.
func (l *Lab) Create(ctx context.Context, manifest string) error {
	objects, err := readObjects(manifest)
	if err != nil {
		return fmt.Errorf("read %s: %w", manifest, err)
	}
	groups, err := restmapper.GetAPIGroupResources(l.client.Discovery())
	if err != nil {
		return fmt.Errorf("discover resources: %w", err)
	}
	client, err := dynamic.NewForConfig(l.admin)
	if err != nil {
		return fmt.Errorf("make a client of all resources: %w", err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	for _, o := range objects {
		if err := create(ctx, client, mapper, o); err != nil {
			return fmt.Errorf("create %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

func readObjects(manifest string) (objects []*unstructured.Unstructured, err error) {
	text, err := os.ReadFile(manifest)
	if err != nil {
		return nil, err
	}
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), yamlBuffer); ; {
		object := &unstructured.Unstructured{}
		switch err := decoder.Decode(&object.Object); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		case len(object.Object) > 0: // not one of comments only
			objects = append(objects, object)
		}
	}
}

func create(ctx context.Context, client dynamic.Interface, mapper meta.RESTMapper, o *unstructured.Unstructured) error {
	kind := o.GroupVersionKind()
	mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	options := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict} // as kubectl
	_, err = client.Resource(mapping.Resource).Namespace(o.GetNamespace()).Create(ctx, o, options)
	return err
}
