package csi

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// version is what the driver says about itself.
const version = "lab"

// ServeController serves what external-attacher calls at a socket, until stop is called.
func (d *Driver) ServeController(socket string) (stop func(), err error) {
	return serve(socket, func(s *grpc.Server) {
		csi.RegisterIdentityServer(s, identity{})
		csi.RegisterControllerServer(s, &controller{driver: d})
	})
}

// ServeNode serves what the kubelet of a node calls, until stop is called. root is the kubelet's folder as this process sees it, inside as
// the kubelet does. The kubelet finds the driver by its socket in the folder of plugins
// (https://kubernetes-csi.github.io/docs/node-driver-registrar.html).
func (d *Driver) ServeNode(name, root, inside string) (stop func(), err error) {
	const folder = "plugins_registry"
	socket := Name + ".sock"
	if err := os.MkdirAll(filepath.Join(root, folder), 0o750); err != nil {
		return nil, err
	}
	return serve(filepath.Join(root, folder, socket), func(s *grpc.Server) {
		registration.RegisterRegistrationServer(s, &registrar{endpoint: filepath.Join(inside, folder, socket)})
		csi.RegisterIdentityServer(s, identity{})
		csi.RegisterNodeServer(s, &node{driver: d, name: name})
	})
}

func serve(socket string, register func(*grpc.Server)) (stop func(), err error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen for calls of the storage driver: %w", err)
	}
	server := grpc.NewServer()
	register(server)
	go func() { _ = server.Serve(listener) }() // it ends with stop
	return server.Stop, nil
}

type identity struct {
	csi.UnimplementedIdentityServer
}

func (identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: Name, VendorVersion: version}, nil
}

func (identity) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{
		Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{
			Type: csi.PluginCapability_Service_CONTROLLER_SERVICE,
		}},
	}}}, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

type controller struct {
	csi.UnimplementedControllerServer
	driver *Driver
}

func (*controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{{
		Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{
			Type: csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		}},
	}}}, nil
}

func (c *controller) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	return &csi.ControllerPublishVolumeResponse{}, c.driver.attach(r.VolumeId, r.NodeId)
}

func (c *controller) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	c.driver.detach(r.VolumeId, r.NodeId)
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

type node struct {
	csi.UnimplementedNodeServer
	driver *Driver
	name   string
}

func (n *node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: n.name}, nil
}

func (*node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (n *node) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	return &csi.NodePublishVolumeResponse{}, n.driver.publish(ctx, r.VolumeId, n.name, r.TargetPath)
}

func (n *node) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return &csi.NodeUnpublishVolumeResponse{}, n.driver.unpublish(ctx, r.VolumeId, n.name, r.TargetPath)
}

// registrar tells the kubelet where the driver is.
type registrar struct {
	registration.UnimplementedRegistrationServer
	endpoint string // the socket, as the kubelet sees it
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: Name, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (*registrar) NotifyRegistrationStatus(context.Context, *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	return &registration.RegistrationStatusResponse{}, nil
}
